"""Random JSON schemas whose values are short, so that a random model comes to their end."""


def random_schema(rng):
    """A schema as clients write them: an object, with definitions that it refers to."""
    defs = {f"d{i}": _value(rng, 1, ()) for i in range(rng.randrange(3))}
    schema = _object(rng, 2, tuple(defs))
    return schema | ({"$defs": defs} if defs else {})


def _value(rng, depth, defs):
    makers = [_string, _integer, _number, _enum, _const, _flag, _nullable]
    if depth:
        makers += [_array, _object, _any_of]
    if defs:
        makers.append(lambda rng, depth, defs: {"$ref": f"#/$defs/{rng.choice(defs)}"})
    return rng.choice(makers)(rng, depth, defs)


def _string(rng, depth, defs):
    return rng.choice(
        [
            {"type": "string", "maxLength": rng.randrange(12)},
            {"type": "string", "minLength": 2, "maxLength": 6},
            {"type": "string", "pattern": "^[a-z]{2,5}-[0-9]{1,3}$"},
            {"type": "string", "pattern": r"^\d+/\d+$"},
            {"type": "string", "format": rng.choice(["date", "time", "uuid", "ipv4"])},
        ]
    )


def _integer(rng, depth, defs):
    low = rng.randrange(-50, 50)
    return {"type": "integer", "minimum": low, "maximum": low + rng.randrange(1000)}


def _number(rng, depth, defs):
    bounds = {"minimum": -1.5, "exclusiveMaximum": 20}
    return {"type": "number"} | (bounds if rng.random() < 0.5 else {})


def _enum(rng, depth, defs):
    return {"enum": rng.sample(["a", 'say "hi"', "Ça va?\n", 3, 2.5, None, True, [1, {"x": 0}]], 3)}


def _const(rng, depth, defs):
    return {"const": rng.choice(["fixed", 0, False, {"k": ["v"]}])}


def _flag(rng, depth, defs):
    return {"type": "boolean"}


def _nullable(rng, depth, defs):
    return {"type": ["integer", "null"], "minimum": 0, "maximum": 9}


def _array(rng, depth, defs):
    low = rng.randrange(3)
    return {
        "type": "array",
        "items": _value(rng, depth - 1, defs),
        "minItems": low,
        "maxItems": low + rng.randrange(3),
    }


def _any_of(rng, depth, defs):
    return {"anyOf": [_value(rng, depth - 1, defs) for _ in range(2)]}


def _object(rng, depth, defs):
    names = rng.sample(["id", "naïve name", "é", "a/b", "x_1", "next"], rng.randrange(1, 5))
    return {
        "type": "object",
        "properties": {name: _value(rng, depth - 1, defs) for name in names},
        "required": [name for name in names if rng.random() < 0.6],
        "additionalProperties": False,
    }
