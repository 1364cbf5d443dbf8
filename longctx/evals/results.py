"""Results that were stored as JSON: whether they are of the expected form, and what is said of those by length.

A result by length is {"lengths": [record, ...]}; a record holds its `length` in tokens and either what was measured
there or the `reason` why nothing was.
"""

from collections.abc import Callable

NUMBER = (int, float, type(None))


def fits(value, form) -> bool:
    """Whether a value read from JSON has a form: a type, a tuple of types, [form] for a list of such, {name: form} for
    a dict that has at least these names. bool is no int, and no int is beyond 64 bits."""
    if isinstance(form, dict):
        return isinstance(value, dict) and all(name in value and fits(value[name], of) for name, of in form.items())
    if isinstance(form, list):
        return isinstance(value, list) and all(fits(item, form[0]) for item in value)
    return isinstance(value, form) and not (isinstance(value, bool) or isinstance(value, int) and abs(value) >= 2**63)


def is_by_length(result: dict, key: str, form: dict, agree: Callable[[dict], bool]) -> bool:
    """Whether a stored result is one by length: each record that holds `key` has the form, and its lists agree in
    length; each other record has a reason."""
    return fits(result, {"lengths": [{"length": int}]}) and all(
        fits(record, form) and agree(record) if record.get(key) else fits(record, {"reason": str})
        for record in result["lengths"]
    )


def is_by_task(result: dict, form: dict) -> bool:
    """Whether a stored result is one by task: of each a cell for every length, which has the form where something was
    asked, and a reason elsewhere."""
    return fits(result, {"lengths": [int], "tasks": [{"name": str, "cells": [dict]}]}) and all(
        len(task["cells"]) == len(result["lengths"])
        and all(fits(cell, form if cell.get("asked") else {"reason": str}) for cell in task["cells"])
        for task in result["tasks"]
    )


def tasks_asked(result: dict) -> list[dict]:
    """The tasks of a result by task that were asked at some length."""
    return [task for task in result["tasks"] if any(cell.get("asked") for cell in task["cells"])]


def measured(result: dict, key: str) -> list[dict]:
    """The records of a result by length that hold `key`."""
    return [record for record in result["lengths"] if record.get(key)]


def lengths(result: dict) -> list[int]:
    """Every context length of a result by length, in tokens, measured or not."""
    return [record["length"] for record in result["lengths"]]


def at_longest(result: dict, key: str, trained: int) -> dict | None:
    """The record that holds `key` at the longest measured length trained at, or beyond where all are; None for none."""
    records = measured(result, key)
    within = [record for record in records if record["length"] <= trained] or records
    return within[-1] if within else None


def finding_by_length(result: dict, key: str, trained: int, of_record: Callable[[dict], str]) -> str:
    """The finding at the longest measured length trained at, by of_record, then each length that was not measured, and
    why. trained: the longest context trained at, in tokens."""
    longest = at_longest(result, key, trained)
    sentences = [of_record(longest)] if longest else []
    missing = [
        f"{record['length']:,} tokens not measured: {record['reason']}."
        for record in result["lengths"]
        if not record.get(key)
    ]
    return " ".join(sentences + missing)
