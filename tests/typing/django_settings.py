"""
Settings for the type checker's Django plugin, which reads models as Django builds them.
"""

SECRET_KEY = "only for type checking"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "tokenbudget_mw_django"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
