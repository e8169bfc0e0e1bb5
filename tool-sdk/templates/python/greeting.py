"""The tool itself, apart from how it is called: so that plain Python can test it."""


def greet(name: str) -> str:
    if not name:
        raise ValueError("the name must not be empty")
    return f"Hello, {name}!"
