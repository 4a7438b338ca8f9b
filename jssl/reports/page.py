"""One HTML page about runs, which needs no network: jinja2 fills it, and Vega draws the charts."""

import importlib.resources
import importlib.util
import json
from typing import Any

from jssl import errors
from jssl.config import UserError

TEMPLATE = "page.html"


def require_packages() -> None:
    """Raises `UserError` unless the packages of the extra `report` are installed."""
    names = {"jinja2": "jinja2", "vl_convert": "vl-convert-python"}
    for module, name in names.items():
        if importlib.util.find_spec(module) is None:
            raise UserError(
                f"jssl report needs {name}; install it with: {errors.install('report')}"
            )


def render(content: dict[str, Any]) -> str:
    """Returns the page.

    Args:
      content: the variables of `page.html`. Texts are escaped. "charts" is {id of an element:
        specification of Vega-Lite}.
    """
    import jinja2
    import vl_convert

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = importlib.resources.files("jssl.reports").joinpath(TEMPLATE).read_text("utf-8")
    template = environment.from_string(text)
    bundle: Any = vl_convert.javascript_bundle  # its type hints demand a snippet
    script = bundle().replace("</script", "<\\/script")
    return template.render(content, script=script, charts_json=script_json(content["charts"]))


def script_json(value: Any) -> str:
    """Returns JSON that ends no script element and opens no comment, whatever its texts hold."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
