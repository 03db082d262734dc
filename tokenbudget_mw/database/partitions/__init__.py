"""
Opt-in partitions of the usage table on PostgreSQL: a table a day or a month, so that old usage goes by dropping a table.

A unique key of a partitioned table must hold the column it is partitioned by, so what makes an event the same event, its id
and its place in its process's sequence, is kept in a small table beside it that is not partitioned: ``tokenbudget_usage_events``.
A trigger enters each new row there first and lets go of a row whose event is known. So every writer stays exact, whether it
knows of partitions or not, and also one that has been running since before there were any.
"""
