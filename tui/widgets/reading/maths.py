"""LaTeX as people read it: `\\frac{a}{b} \\leq x^2` becomes `a/b ≤ x²`.

What has no sign in Unicode stays as it is written: nothing is lost, at worst it reads as LaTeX.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_SIGNS = {
    # Greek
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "varepsilon": "ε",
    "zeta": "ζ", "eta": "η", "theta": "θ", "vartheta": "ϑ", "iota": "ι", "kappa": "κ",
    "lambda": "λ", "mu": "μ", "nu": "ν", "xi": "ξ", "pi": "π", "rho": "ρ", "sigma": "σ",
    "tau": "τ", "upsilon": "υ", "phi": "φ", "varphi": "φ", "chi": "χ", "psi": "ψ", "omega": "ω",
    "Gamma": "Γ", "Delta": "Δ", "Theta": "Θ", "Lambda": "Λ", "Xi": "Ξ", "Pi": "Π", "Sigma": "Σ",
    "Upsilon": "Υ", "Phi": "Φ", "Psi": "Ψ", "Omega": "Ω",
    # operators
    "cdot": "·", "times": "×", "div": "÷", "pm": "±", "mp": "∓", "ast": "∗", "star": "⋆",
    "circ": "∘", "bullet": "•", "oplus": "⊕", "otimes": "⊗", "wedge": "∧", "vee": "∨",
    "land": "∧", "lor": "∨", "neg": "¬", "lnot": "¬", "cap": "∩", "cup": "∪", "setminus": "∖",
    "sum": "∑", "prod": "∏", "int": "∫", "iint": "∬", "oint": "∮", "partial": "∂", "nabla": "∇",
    # relations
    "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "ne": "≠", "neq": "≠", "approx": "≈",
    "equiv": "≡", "sim": "∼", "simeq": "≃", "cong": "≅", "propto": "∝", "ll": "≪", "gg": "≫",
    "in": "∈", "notin": "∉", "ni": "∋", "subset": "⊂", "subseteq": "⊆", "supset": "⊃",
    "supseteq": "⊇", "mid": "∣", "parallel": "∥", "perp": "⊥", "models": "⊨", "vdash": "⊢",
    # arrows
    "to": "→", "rightarrow": "→", "leftarrow": "←", "gets": "←", "leftrightarrow": "↔",
    "Rightarrow": "⇒", "implies": "⟹", "Leftarrow": "⇐", "Leftrightarrow": "⇔", "iff": "⟺",
    "mapsto": "↦", "uparrow": "↑", "downarrow": "↓", "longrightarrow": "⟶",
    # others
    "infty": "∞", "forall": "∀", "exists": "∃", "nexists": "∄", "emptyset": "∅",
    "varnothing": "∅", "angle": "∠", "degree": "°", "prime": "′", "ell": "ℓ", "hbar": "ℏ",
    "Re": "ℜ", "Im": "ℑ", "aleph": "ℵ", "therefore": "∴", "because": "∵", "dots": "…",
    "ldots": "…", "cdots": "⋯", "vdots": "⋮", "ddots": "⋱", "langle": "⟨", "rangle": "⟩",
    "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "lbrace": "{", "rbrace": "}",
    "vert": "|", "Vert": "‖", "top": "⊤", "bot": "⊥", "checkmark": "✓", "square": "□",
    "blacksquare": "■", "dagger": "†", "triangle": "△", "backslash": "\\",
    # spaces
    "quad": "  ", "qquad": "    ",
    # names
    **{name: name for name in (
        "sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "arcsin", "arccos",
        "arctan", "log", "ln", "lg", "exp", "lim", "max", "min", "sup", "inf", "det", "dim", "ker",
        "gcd", "deg", "arg", "Pr", "limsup", "liminf", "bmod",
    )},
}  # fmt: skip
_ESCAPED = {
    ",": " ", ";": " ", ":": " ", " ": " ", "!": "", "{": "{", "}": "}", "%": "%", "$": "$",
    "&": "&", "#": "#", "_": "_", "|": "‖",
}  # fmt: skip
_DROPPED = {
    "left", "right", "big", "Big", "bigg", "Bigg", "bigl", "bigr", "Bigl", "Bigr", "displaystyle",
    "textstyle", "limits", "nolimits", "nonumber", "middle",
}  # fmt: skip
# What they hold is shown as it is.
_BARE = {
    "text", "textbf", "textit", "textrm", "texttt", "mathrm", "mathbf", "mathit", "mathsf",
    "mathtt", "mathcal", "boldsymbol", "bm", "operatorname", "mbox", "hbox", "ensuremath",
}  # fmt: skip
_ACCENTS = {
    "hat": "\u0302", "widehat": "\u0302", "bar": "\u0304", "overline": "\u0305", "vec": "\u20d7",
    "dot": "\u0307", "ddot": "\u0308", "tilde": "\u0303", "widetilde": "\u0303",
    "underline": "\u0332",
}  # fmt: skip
_DOUBLE = dict(zip("CHNPQRZ", "ℂℍℕℙℚℝℤ", strict=True))
_ABOVE = dict(zip("0123456789+-=()niabcdefghjklmoprstuvwxyzTABDEGHIJKLMNOPRUVW∘′*",
                  "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱᵃᵇᶜᵈᵉᶠᵍʰʲᵏˡᵐᵒᵖʳˢᵗᵘᵛʷˣʸᶻᵀᴬᴮᴰᴱᴳᴴᴵᴶᴷᴸᴹᴺᴼᴾᴿᵁⱽᵂ°′*",
                  strict=True))  # fmt: skip
_BELOW = dict(zip("0123456789+-=()aehijklmnoprstuvxβγρφχ",
                  "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓᵦᵧᵨᵩᵪ", strict=True))  # fmt: skip
_TOKEN = re.compile(r"\\([A-Za-z]+)\*?[ \t]*|\\(.)|([{}^_&])|([^\\{}^_&]+)", re.DOTALL)
_SIMPLE = re.compile(r"^[\w.′²³⁰-⁹₀-₉√∞°ⁿ]*(?:\([^()]*\))?$")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{[A-Za-z]+\*?\}(?:\{[lcr|]*\})?")
_TAKES = {"frac": 2, "dfrac": 2, "tfrac": 2, "binom": 2, "sqrt": 1, "mathbb": 1,
          **dict.fromkeys(_BARE, 1), **dict.fromkeys(_ACCENTS, 1)}  # fmt: skip

SUSPICIOUS = re.compile(
    r"[\\^_=<>+]|^[A-Za-z0-9]$|^[a-z]\([a-z]\)$"
)  # a text between dollars is maths
# Around a fraction, until it is seen what stands beside it; of the characters without a meaning.
_BEGIN, _END = "\ue000", "\ue001"
_FRACTION = re.compile(f"{_BEGIN}([^{_BEGIN}{_END}]*){_END}")
_DEEP = 24  # braces within braces: what is deeper stays LaTeX


def readable(source: str) -> str:
    """LaTeX, without what marks it as such, as text of the same lines (and more, where the source
    says `\\\\`). Never raises."""
    text = _ENVIRONMENT.sub("", source)
    bare = re.sub(r"\\.", "", text)
    if bare.count("{") != bare.count("}") or bare.endswith("\\"):
        return source  # half of it is not here yet
    shown = _FRACTION.sub(_told_apart, _Reader(text).group(0, top=True))
    return re.sub(r"(?<=\S)[ \t]{3,}", "  ", shown).strip(" \t")


class _Reader:
    """Goes over the tokens once."""

    def __init__(self, text: str):
        self._tokens = [
            (m[1] or "", m[2] or "", m[3] or "", m[4] or "", m[0]) for m in _TOKEN.finditer(text)
        ]
        self._at = 0

    def group(self, depth: int, top: bool = False) -> str:
        """Up to the brace that closes it, or to the end."""
        out: list[str] = []
        while self._at < len(self._tokens):
            name, escaped, mark, words, whole = self._tokens[self._at]
            self._at += 1
            if mark == "}":
                if not top:
                    return "".join(out)
                out.append("}")
            elif mark == "{" and depth >= _DEEP:
                out.append("{")
            elif mark == "{":
                out.append(self.group(depth + 1))
            elif mark in ("^", "_"):
                out.append(self._script(mark, depth))
            elif mark == "&":
                out.append(" ")
            elif words:
                out.append(words)
            elif escaped:
                out.append("\n" if escaped in "\\\n" else _ESCAPED.get(escaped, whole))
            else:
                out.append(self._command(name, whole, depth))
        return "".join(out)

    def _argument(self, depth: int) -> str | None:
        """A group, or one character or command; None where there is none."""
        self._skip_spaces()
        if self._at >= len(self._tokens) or depth >= _DEEP:
            return None
        name, escaped, mark, words, whole = self._tokens[self._at]
        if mark == "{":
            self._at += 1
            return self.group(depth + 1)
        if mark:
            return None
        if words:
            self._leave(words[1:])
            return words[0]
        self._at += 1
        return _ESCAPED.get(escaped, whole) if escaped else self._command(name, whole, depth + 1)

    def _skip_spaces(self) -> None:
        words = self._tokens[self._at][3] if self._at < len(self._tokens) else ""
        if words[:1] in (" ", "\t"):
            self._leave(words.lstrip(" \t"))

    def _leave(self, words: str) -> None:
        """So much of the words that come next is still to be read."""
        self._tokens[self._at] = ("", "", "", words, words)
        self._at += not words

    def _script(self, mark: str, depth: int) -> str:
        held = self._argument(depth)
        if held is None:
            return mark
        signs, held = _ABOVE if mark == "^" else _BELOW, held.strip()
        if held and all(char in signs for char in held):
            return "".join(signs[char] for char in held)
        return f"{mark}{held}" if len(held) == 1 else f"{mark}({held})"

    def _command(self, name: str, whole: str, depth: int) -> str:
        after = " " if whole[-1:] in " \t" else ""
        if name in _SIGNS:
            return _SIGNS[name] + after
        if name in _DROPPED:
            return ""
        if name not in _TAKES:
            return whole + "".join(f"{{{held}}}" for held in self._groups(depth))
        root = self._optional() if name == "sqrt" else ""
        held: list[str] = []
        for _ in range(_TAKES[name]):
            one = self._argument(depth)
            if one is None:
                return whole + "".join(f"{{{h}}}" for h in held)
            held.append(one)
        if name in _BARE:
            return held[0]
        if name == "mathbb":
            return "".join(_DOUBLE.get(char, char) for char in held[0])
        if name in _ACCENTS:
            one_sign = len(held[0]) == 1
            return held[0] + _ACCENTS[name] if one_sign else f"{name}({held[0]})"
        if name == "binom":
            return f"C({held[0]}, {held[1]})"
        if name == "sqrt":
            sign = {"": "√", "3": "∛", "4": "∜"}.get(root, f"{root}√")
            return sign + _wrapped(held[0])
        return f"{_BEGIN}{_wrapped(held[0])}/{_wrapped(held[1])}{_END}"

    def _groups(self, depth: int) -> Iterator[str]:
        """What stands in braces right here."""
        while self._at < len(self._tokens) and self._tokens[self._at][2] == "{" and depth < _DEEP:
            self._at += 1
            yield self.group(depth + 1)

    def _optional(self) -> str:
        """What stands in brackets after a root."""
        words = self._tokens[self._at][3] if self._at < len(self._tokens) else ""
        if not words.startswith("[") or "]" not in words:
            return ""
        root, _, rest = words[1:].partition("]")
        self._leave(rest)
        return root


def _wrapped(text: str) -> str:
    text = _FRACTION.sub(r"\1", text).strip()
    return text if _SIMPLE.match(text) else f"({text})"


def _told_apart(fraction: re.Match[str]) -> str:
    """A fraction is in brackets where what is beside it would be read into it."""
    before, after = fraction.string[: fraction.start()][-1:], fraction.string[fraction.end() :][:1]
    beside = before.isalnum() or after.isalnum() or before in (")", _END) or after in ("(", _BEGIN)
    return f"({fraction[1]})" if beside and (before or after) else fraction[1]
