"""What the user asked for, from settings and back."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from tests.support.giants import LLAMA_8B, giant
from tests.support.settings import unusual
from tuner.settings import Settings
from tuner.wishes import Wishes

SETTINGS = unusual()
# What the tuner decides and nobody can wish otherwise.
OURS = {"swa_full"}


def test_every_setting_can_be_wished() -> None:
    """A field added to Settings is either a wish too or named here."""
    wished = {f.name for f in fields(Wishes)}
    assert {f.name for f in fields(Settings)} - wished == OURS


@pytest.mark.parametrize("name", sorted({f.name for f in fields(Settings)} - OURS))
def test_every_wish_of_settings_is_carried(name: str) -> None:
    """Wishes made of settings fix each of them, to the value it has."""
    assert getattr(SETTINGS, name) != getattr(Settings(n_ctx=4096), name)
    assert getattr(Wishes.of_settings(SETTINGS), name) == getattr(SETTINGS, name)


def test_wishes_of_settings_leave_nothing_to_decide() -> None:
    assert Wishes.of_settings(SETTINGS).complete
    assert Wishes.of_settings(replace(SETTINGS, tensor_split=())).tensor_split is None


def test_what_is_fixed_is_named_and_can_be_given_up() -> None:
    """Defaults are no wishes; what was given up is none either."""
    wishes = Wishes(n_ctx=4096, type_k="q8_0", prefer="speed", use_extra_bufts=False)
    assert Wishes().fixed == ()
    assert wishes.fixed == ("n_ctx", "type_k")
    assert wishes.without("n_ctx", "type_v") == replace(wishes, n_ctx=None)
    assert wishes.without(*wishes.fixed).fixed == ()


def test_max_and_all_become_numbers() -> None:
    """As the model has them."""
    model = giant(LLAMA_8B)
    wishes = Wishes(max_ctx=True, n_gpu_layers=99).for_model(model)
    assert (wishes.n_ctx, wishes.n_gpu_layers) == (model.n_ctx_train, 33)
    assert not wishes.max_ctx
    assert wishes.for_model(model) == wishes
