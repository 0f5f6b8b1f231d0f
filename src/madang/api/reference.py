"""/docs: the OpenAPI document as one page of HTML, written here.

No script and nothing from elsewhere, so it stands under the strictest policy and works without a
network; the document itself is at /openapi.json for every tool that reads such.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any

from madang.api.pages import FRAME

Schema = Mapping[str, Any]


def reference_page(document: Schema) -> str:
    """The whole page."""
    return FRAME.format(title="API", body="\n".join(_body(document)))


def _body(document: Schema) -> Iterator[str]:
    yield f"<h1>Madang’s API <small>{escape(document['info']['version'])}</small></h1>"
    yield _prose(document["info"]["description"])
    yield "<p>For tools: <a href='/openapi.json'>/openapi.json</a></p>"
    operations = list(_operations(document))
    yield "<nav><ul>"
    for path, verb, operation in operations:
        anchor = _anchor(verb, path)
        yield f"<li><a href='#{anchor}' title='{escape(operation['summary'])}'>"
        yield f"<span class='verb'>{verb}</span> {escape(path)}</a></li>"
    yield "</ul></nav>"
    yield "<p><a href='#problems'>Problems</a> · <a href='#shapes'>Shapes</a></p>"
    for tag in document["tags"]:
        yield f"<h2 id='{tag['name']}'>{escape(tag['name'].capitalize())}</h2>"
        yield _prose(tag["description"])
        for path, verb, operation in operations:
            if tag["name"] in operation.get("tags", ()):
                yield from _operation(path, verb, operation, document)
    yield from _problems(document)
    yield from _schemas(document)


def _operations(document: Schema) -> Iterator[tuple[str, str, Schema]]:
    for path, methods in document["paths"].items():
        for verb, operation in methods.items():
            if verb != "head":
                yield path, verb.upper(), operation


def _operation(path: str, verb: str, operation: Schema, document: Schema) -> Iterator[str]:
    yield f"<h3 id='{_anchor(verb, path)}'><span class='verb'>{verb}</span>"
    yield f"<code>{escape(path)}</code></h3>"
    yield _prose(operation.get("description", ""))
    parameters = [_parameter(one, document) for one in operation.get("parameters", ())]
    if parameters:
        yield _table(("Parameter", "Type", "Meaning"), parameters)
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<h4>Body: {escape(media_type)}, {_type(content.get('schema', {}))}</h4>"
        yield f"<pre><code>{escape(_curl(path, verb, media_type))}</code></pre>"
    rows = []
    for status, response in operation["responses"].items():
        types = [
            _type(content.get("schema", {})) + f" <small>{escape(media)}</small>"
            for media, content in response.get("content", {}).items()
        ]
        rows.append((status, " ".join(types) or "–", _inline(response.get("description", ""))))
    yield "<h4>Answers</h4>"
    yield _table(("Status", "Body", "When"), rows)


def _parameter(one: Schema, document: Schema) -> tuple[str, str, str]:
    name = f"<code>{escape(one['name'])}</code> <small>{one['in']}</small>"
    schema = one.get("schema", {})
    return name, _type(schema), _inline(one.get("description") or "") + _bounds(schema)


def _problems(document: Schema) -> Iterator[str]:
    yield "<h2 id='problems'>Problems</h2>"
    yield _prose("Every error is one of these; the code never changes its meaning.")
    codes: Mapping[str, str] = document["x-problem-codes"]
    yield _table(
        ("Code", "Meaning"),
        [(f"<code id='{code}'>{code}</code>", escape(title)) for code, title in codes.items()],
    )


def _schemas(document: Schema) -> Iterator[str]:
    yield "<h2 id='shapes'>Shapes</h2>"
    for name, schema in sorted(document["components"]["schemas"].items()):
        yield f"<h3 id='shape-{name}'>{escape(name)}</h3>"
        yield _prose(schema.get("description", ""))
        required = set(schema.get("required", ()))
        rows = []
        for key, value in schema.get("properties", {}).items():
            need = "" if key not in required else " <small>required</small>"
            rows.append(
                (
                    f"<code>{escape(key)}</code>{need}",
                    _type(value),
                    _inline(value.get("description", "")) + _bounds(value),
                )
            )
        if rows:
            yield _table(("Key", "Type", "Meaning"), rows)


def _type(schema: Schema) -> str:
    """A schema in a few words, with links to shapes."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"<a href='#shape-{escape(name)}'>{escape(name)}</a>"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(_type(one) for one in schema[key])
    if "enum" in schema:
        return " ".join(f"<code>{escape(str(one))}</code>" for one in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(str(schema['const']))}</code>"
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return escape(str(kind))


def _bounds(schema: Schema) -> str:
    """Limits and examples, as far as a schema tells."""
    words = []
    names = {
        "minimum": "≥ ",
        "maximum": "≤ ",
        "exclusiveMinimum": "> ",
        "minLength": "length ≥ ",
        "maxLength": "length ≤ ",
        "minItems": "items ≥ ",
        "maxItems": "items ≤ ",
    }
    for part in (schema, *schema.get("anyOf", ())):
        words += [f"{sign}{part[key]:,}" for key, sign in names.items() if key in part]
    if "default" in schema and schema["default"] not in (None, ""):
        words.append(f"default <code>{escape(json.dumps(schema['default']))}</code>")
    for example in schema.get("examples", ())[:1]:
        words.append(f"e.g. <code>{escape(json.dumps(example, ensure_ascii=False))}</code>")
    return f" <small>{', '.join(words)}</small>" if words else ""


def _curl(path: str, verb: str, media_type: str) -> str:
    sent = "--data-binary @FILE" if media_type != "application/json" else "-d @body.json"
    return (
        f'curl -X {verb} -H "Authorization: Bearer $TOKEN" '
        f"-H 'Content-Type: {media_type}' {sent} $MADANG_URL{path}"
    )


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{one}</th>" for one in heads)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class='scroll'><table><tr>{head}</tr>\n{body}</table></div>"


def _prose(text: str) -> str:
    """Paragraphs."""
    parts = re.split(r"\n\s*\n", text.strip())
    return "\n".join(f"<p>{_inline(part)}</p>" for part in parts if part)


def _inline(text: str) -> str:
    """Code between backticks."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _anchor(verb: str, path: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"{verb} {path}".lower()).strip("-")
