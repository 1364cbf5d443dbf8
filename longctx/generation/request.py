"""What may be asked of a generation. Free of jax: a command checks it first."""
import dataclasses

from longctx.errors import UserError


@dataclasses.dataclass(frozen=True)
class Request:
    """How a prompt is continued.

    Attributes:
      max_new_tokens: how many at most.
      chunk: tokens of the prompt that are read at a time.
      temperature, top_p: see generation.sampling.sample; temperature 0 takes the likeliest token.
      stop: tokens that end a row.
    """
    max_new_tokens: int
    chunk: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[int, ...] = ()

    def check(self) -> "Request":
        """Itself. Raises UserError for a number that cannot work."""
        for name in ("max_new_tokens", "chunk"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1 token.")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature={self.temperature} must be 0 (the likeliest token) or above, such as 0.8.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p} must be above 0 and at most 1, which leaves out no token.")
        return self
