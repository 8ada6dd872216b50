"""The same structs, made by msgspec or by what stands in for it. Annotations are no texts: the classes are local."""

# mypy: disable-error-code="misc,name-defined,call-arg"

from typing import Any


def structs(module: Any) -> Any:
    """The same classes, made by one or the other."""

    class Point(module.Struct, frozen=True):
        x: int
        y: float = 0.0
        tags: list[str] = []  # noqa: RUF012 - copied, as msgspec does

    class Named(Point, frozen=True, gc=False):
        id: str = module.field(name="_id", default="")
        extra: Any = module.field(default=module.UNSET)

    class Open(module.Struct, kw_only=True):
        point: Point
        points: list[Point] = module.field(default_factory=list)
        maybe: str | None = None

    class Same(module.Struct, eq=False):
        x: int

    return Point, Named, Open, Same
