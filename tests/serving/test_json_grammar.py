"""response_format: whatever a guide allows is valid JSON of the schema; the rest is refused."""

import json
import random

import pytest

pytestmark = pytest.mark.remote_env
POINT = {"type": "object", "required": ["x", "label"], "additionalProperties": False,
         "properties": {"x": {"type": "integer"}, "y": {"type": "number"},
                        "label": {"type": "string", "maxLength": 5}}}  # fmt: skip
TREE = {"$ref": "#/$defs/node", "$defs": {"node": {
    "type": "object", "required": ["value", "next"],
    "properties": {"value": {"enum": ["a", "ab", 3, None, {"k": [1]}]},
                   "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}}}}  # fmt: skip
SHAPES = {"oneOf": [
    {"type": "object", "required": ["kind"], "properties": {"kind": {"const": "circle"}}},
    {"type": "object", "required": ["kind"],
     "properties": {"kind": {"const": "square"}, "side": {"type": "number"}}},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3},
]}  # fmt: skip
SCHEMAS = {
    "fields": POINT, "recursion": TREE, "shapes": SHAPES, "anything": True,
    "types": {"type": ["string", "null"], "minLength": 2, "maxLength": 4},
    "mapping": {"type": "object", "additionalProperties": {"type": "boolean"}},
    "empty list": {"type": "array", "items": {"type": "boolean"}, "maxItems": 0},
    "long list": {"type": "array", "items": {"type": "array", "items": {"type": "null"}},
                  "minItems": 2},
    "constant": {"const": "\u00e9\"\\ \n"},
    "needed and not described": {"type": "object", "required": ["z \u20ac"],
                                 "additionalProperties": {"type": "integer"}},
    "pydantic's optional": {"title": "T", "type": "object", "properties": {
        "a": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None, "title": "A"},
        "b": {"allOf": [{"$ref": "#/definitions/B"}], "description": "…"}},
        "definitions": {"B": {"type": "string", "enum": ["x", "y"]}}},
    "enum of a type": {"type": "integer", "enum": [1, 2.0, 2.5, "1", True]},
    "large numbers": {"enum": [10**400, -1.5, 1e300]},
}  # fmt: skip


def byte_level():
    from base_model import miniature
    from support import tiny

    texts = [message["content"] for row in tiny.rows(40) for message in row["messages"]]
    return miniature.build_tokenizer(texts, "llama")


def sentence_pieces():
    """Llama 2's kind: a sign for blanks, and tokens for bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    words += ["\u2581", *map(chr, range(33, 127)), '":', '{"', '"}', "ab", "\u2581a", "\u20ac"]
    merges = [("a", "b"), ("\u2581", "a"), ('"', ":"), ("{", '"'), ('"', "}")]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    backend = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    backend.decoder = decoders.Sequence([
        decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def tables():
    from serving.token_guide import TokenTable

    made = {"byte level": byte_level(), "sentence pieces": sentence_pieces()}
    return {name: (tokenizer, TokenTable(tokenizer)) for name, tokenizer in made.items()}


def write(guide, table, dice, most=150):
    """An answer of random tokens that the guide allows, drawn towards its end; None if unended."""
    tokens = []
    for _ in range(most):
        allowed = guide.allowed([0])
        if guide.complete or (allowed[0] and dice.random() < 0.5):
            return tokens
        allowed[0] = False
        ids = allowed.nonzero()[:, 0].tolist()
        closing = [i for i in ids if table.pieces[i][:1] in b'"}],n']
        tokens.append(dice.choice(closing if closing and dice.random() < 0.6 else ids))
        guide.take(tokens[-1])
    return None


@pytest.mark.parametrize("kind", ["byte level", "sentence pieces"])
@pytest.mark.parametrize("name", SCHEMAS)
def test_every_way_that_a_guide_allows_is_valid(tables, kind, name):
    jsonschema = pytest.importorskip("jsonschema")
    from serving import json_schema
    from serving.token_guide import Grammar, Guide

    tokenizer, table = tables[kind]
    grammar = Grammar(json_schema.automaton(SCHEMAS[name]), table)
    written = []
    for seed in range(25):
        tokens = write(Guide(grammar), table, random.Random(seed))
        if tokens is not None:
            written.append(tokenizer.decode(tokens))
            jsonschema.validate(json.loads(written[-1]), SCHEMAS[name])
    assert len(written) > 12
    assert len(set(written)) > 1 or name in ("empty list", "constant", "enum of a type")


def test_objects_without_a_schema_are_objects_and_nesting_ends(tables):
    from serving import json_schema
    from serving.token_guide import Grammar, Guide

    _, table = tables["byte level"]
    one = {piece: i for i, piece in table.pieces.items() if len(piece) == 1}
    grammar = Grammar(json_schema.automaton(None, anything=True), table)
    assert {table.pieces[i][:1] for i in Guide(grammar).allowed([]).nonzero()[:, 0].tolist()} <= {
        b"{", b" "
    }  # fmt: skip
    guide = Guide(grammar)
    for byte in b'{"a":':
        guide.take(one[bytes([byte])])
    depth = 0
    while guide.allowed([])[one[b"["]]:
        guide.take(one[b"["])
        depth += 1
    assert 20 < depth < 40
    for byte in b"]" * depth + b"}":
        guide.take(one[bytes([byte])])
    assert guide.complete


@pytest.mark.parametrize(("schema", "place", "why"), [
    ({"type": "string", "pattern": "a+"}, "schema.pattern", "is not supported"),
    ({"type": "object", "properties": {"when": {"type": "string", "format": "date"}}},
     "schema.properties.when.format", "is not supported"),
    ({"type": "integer", "minimum": 3}, "schema.minimum", "is not supported"),
    ({"type": "array", "prefixItems": []}, "schema.prefixItems", "is not supported"),
    ({"type": "string", "items": {}}, "schema.items", "does not go with type string"),
    ({"anyOf": [{"type": "null"}], "type": "object"}, "schema.type", "not supported beside anyOf"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "schema.oneOf", "two of these shapes"),
    ({"oneOf": [{"type": "string"}, {"properties": {}}]}, "schema.oneOf", "two of these shapes"),
    ({"allOf": [True, True]}, "schema.allOf", "of several schemas"),
    ({"$ref": "https://example.org/x"}, "schema.$ref", "must lead into the schema itself"),
    ({"$ref": "#/$defs/x"}, "schema.$defs.x", "is referred to and not there"),
    ({"$ref": "#"}, "schema", "refers to itself alone"),
    ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "schema", "refers to itself alone"),
    ({"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}}, "schema",
     "no answer is valid"),
    ({"type": "object", "required": ["a"], "additionalProperties": False}, "schema",
     "no answer is valid"),
    ({"enum": []}, "schema.enum", "must be a list that is not empty"),
    ({"type": "array", "minItems": 3, "maxItems": 2}, "schema.maxItems", "is below minItems"),
    ({"type": "string", "maxLength": -1}, "schema.maxLength", "must be a whole number"),
    ({"type": "string", "maxLength": 10**9}, "schema", "is too large"),
    ({"type": "text"}, "schema.type", "text is no type of JSON Schema"),
    ({"type": 3}, "schema.type", "must be the name of a type"),
    ({"properties": []}, "schema.properties", "must be an object"),
    ({"const": float("nan")}, "schema", "not finite"),
    ("string", "schema", "must be an object"),
    ({"enum": ["\ud800"]}, "schema", "no Unicode"),
    ({"type": "string", "minLength": 10**400}, "schema", "is too large"),
    ({"type": "array", "maxItems": 2.5}, "schema.maxItems", "must be a whole number"),
    ({"type": "object", "required": [1]}, "schema.required", "must be a list of names"),
    ({"type": "object", "additionalProperties": "no"}, "schema.additionalProperties",
     "must be an object"),
    ({"type": "array", "items": [{}]}, "schema.items", "must be an object"),
    ({"$ref": 5}, "schema.$ref", "must lead into the schema itself"),
    ({"$ref": "#/properties/a/0", "properties": {"a": "x"}}, "schema.properties",
     "not supported beside $ref"),
    ({"$ref": "#/$defs/0", "$defs": [{"$ref": f"#/$defs/{i + 1}"} for i in range(2000)]},
     "schema", "more than 300 schemas"),
], ids=lambda value: str(value)[:60])  # fmt: skip
def test_what_answers_cannot_be_held_to_is_refused_by_name(schema, place, why):
    from serving import json_schema

    with pytest.raises(json_schema.SchemaRefused) as refused:
        json_schema.automaton(schema)
    assert refused.value.place == place and why in refused.value.why


def test_schemas_that_are_deep_or_large_are_refused_and_soon():
    from serving import json_schema

    deep: dict = {"type": "null"}
    for _ in range(500):
        deep = {"type": "array", "items": deep}
    for schema in (deep, {"enum": ["x" * 50_000]}, {"enum": [f"{i}" * 9 for i in range(9_000)]}):
        with pytest.raises(json_schema.SchemaRefused):
            json_schema.automaton(schema)


def test_a_tokenizer_whose_tokens_are_no_pieces_of_the_text_is_refused():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from serving.token_guide import TokenTable

    backend = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "{": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ValueError, match="not pieces of the text"):
        TokenTable(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>"))
