"""What a text calls for while it is written: behind "<<347*28=" stands what a calculator makes of it, not what a network would.

Knows the page's text, by the codec; everything here is a function of the page alone, as all rules are.
"""

from __future__ import annotations

import ast
import operator
import re
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from maquette.system import System

OPENS, IS, CLOSES = "<<", "=", ">>"  # Cobbe 2021, arXiv:2110.14168, sec. 5.3
_OPEN = re.compile(r"<<([\d+\-*/(). ]{1,64})=([^<>]*)>?$")
MOST = 10**15  # a number that is worked with, or worked out, is below it
SYMBOLS = 160  # newest ones of a page that a call is looked for in


class Calculator:
    """A calculator at work on pages of one system.

    Raises:
        ValueError: it makes no texts.
    """

    def __init__(self, system: System):
        self.codec: Any = system.codec
        if self.codec.field != "text":
            raise ValueError(f"this run makes {self.codec.field}s; tools are for text")

    def __call__(self, logits: Tensor, code: Tensor, place: int, known: Tensor) -> Tensor:
        """Logits [n,V] of the symbol at `place` of a page int64[n,T], of which bool[n,T] was given."""
        for i, row in enumerate(code[:, max(0, place - SYMBOLS) : place].tolist()):
            if bool(known[i, place]):
                continue
            symbol = self._next(row)
            if symbol is not None:
                only = torch.full_like(logits[i], -torch.inf)
                only[symbol] = 0.0
                logits[i] = only
        return logits

    def _next(self, row: list[int]) -> int | None:
        """The symbol that must follow, where a call stands open whose answer is not all written."""
        found = _OPEN.search(self.codec.join(row))
        if found is None:
            return None
        made = worked_out(found[1])
        if made is None:
            return None
        wanted, so_far = f"{made}{CLOSES}", found[0][len(OPENS) + len(found[1]) + len(IS) :]
        rest = wanted.removeprefix(so_far) if wanted.startswith(so_far) else CLOSES
        return int(self.codec.tokenize([rest])[0][0]) if rest else None


TOOLS = {"calculator": Calculator}


_SIGNS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def worked_out(text: str) -> str | None:
    """What an expression of whole numbers, + - * / and brackets comes to, a fraction as "5/2"; None where it is none.

    Examples:
        >>> worked_out("347*28"), worked_out("(2+3)/2"), worked_out("2**9")
        ('9716', '5/2', None)
    """

    def value(node: ast.expr) -> Fraction:
        match node:
            case ast.Constant(value=int(number)):
                made = Fraction(number)
            case ast.UnaryOp(op=ast.USub()):
                made = -value(node.operand)
            case ast.BinOp() if type(node.op) in _SIGNS:
                made = _SIGNS[type(node.op)](value(node.left), value(node.right))
            case _:
                raise ValueError
        if max(abs(made.numerator), made.denominator) >= MOST:
            raise ValueError
        return made

    try:
        return str(value(ast.parse(text.strip(), mode="eval").body))
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None
