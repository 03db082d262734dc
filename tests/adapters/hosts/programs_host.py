"""What the hosts of programs share: programs from files, and two middlewares, of which a request chooses one or neither."""

import ast
import os
from pathlib import Path
from types import SimpleNamespace

SETTINGS = {
    "database": os.environ.get("CONTRACT_DATABASE", "sqlite:///contract.db"),
    "identify": "host.subject_of",
    "routes": [{"path": "/read", "format": "openai.chat"}, {"path": "/plain/*"}],
    "exempt": ["/is-anybody-there"],
    "plans": {"none": [], "many": ["1G requests/hour", "1000G tokens/hour", "1M concurrent"]},
    "default_plan": "none",
}
FILE = Path(__file__).with_name("host.py")
"""What programs send as a file."""


def program(name):
    """The program of that name, which the test has written beside the database: a list of steps, or a ``Program``."""
    tree = ast.parse(Path(f"{name}.program").read_text(), mode="eval")
    if isinstance(tree.body, ast.Call):
        return SimpleNamespace(**{each.arg: ast.literal_eval(each.value) for each in tree.body.keywords})
    return ast.literal_eval(tree)
