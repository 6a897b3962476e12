"""What schemathesis is told beside the document, in its own process: what JSON Schema cannot say."""

from typing import Any

import schemathesis

from opencode_events.web.openapi import DIRECTORY_HEADER


def whole(value: Any) -> Any:
    """Return a value with its whole numbers written as such: to JSON Schema 1.0 is an integer, to the daemon it is not.

    No client writes them so, JavaScript's the least.
    """
    if isinstance(value, dict):
        return {key: whole(member) for key, member in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    return whole(body)


@schemathesis.hook
def filter_case(context: schemathesis.HookContext, case: "schemathesis.Case[Any]") -> bool:
    """Leave out who names an instance in the header alone: that one of two is enough, a document cannot say."""
    header = next((value for name, value in (case.headers or {}).items() if name.lower() == DIRECTORY_HEADER), "")
    return case.path != "/event" or not header or bool((case.query or {}).get("directory"))
