"""Numbers of programs that a GPU refuses and Triton's interpreter does not, for tests alone."""

LIMITS = (2**31 - 1, 65_535, 65_535)  # CUDA C++ programming guide, compute capabilities


def refuse_impossible_grids() -> None:
    """Make the interpreter refuse a launch of no programs, or of too many along the second or third axis."""
    from triton.runtime.interpreter import GridExecutor

    plain = GridExecutor.__init__

    def checked(self, function, names, grid, *rest):
        if not callable(grid):
            possible = all(0 < count <= limit for count, limit in zip(grid, LIMITS, strict=False))
            assert possible, f"a GPU cannot launch {grid}"
        plain(self, function, names, grid, *rest)

    GridExecutor.__init__ = checked
