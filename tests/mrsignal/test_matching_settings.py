import pytest

from mri2qmap.combined_matching import CombinedMatchingSettings
from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal.dictionary import DictionarySettings
from mri2qmap.mrsignal.matching_settings import MatchingSettings
from mri2qmap.mrsignal.synthesis import SpinEcho
from mri2qmap.pipeline.pipeline_file import read_pipeline
from mri2qmap.pipeline.settings import parse_settings
from mri2qmap.pnp_admm import PnpAdmmSettings

TIMES = {
    "tr_t1w": "0.4",
    "te_t1w": "0.012",
    "tr_t2w": "4.5",
    "te_t2w": "0.09",
    "tr_pdw": "3.5",
    "te_pdw": "0.008",
}


def test_default_settings_give_the_default_dictionary():
    assert MatchingSettings().dictionary(5) == DictionarySettings()


@pytest.mark.parametrize(
    ("gadget", "settings"),
    [("pnp_admm", PnpAdmmSettings), ("combined_matching", CombinedMatchingSettings)],
)
def test_properties_choose_the_spin_echoes(gadget, settings):
    parsed = parse_settings(settings, TIMES, gadget)
    expected = (SpinEcho(0.4, 0.012), SpinEcho(4.5, 0.09), SpinEcho(3.5, 0.008))
    assert parsed.echoes == parsed.dictionary(5).echoes == expected


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("tr_t1w", "0", "tr_t1w must be between 0 and 60 s, got 0"),
        ("tr_t1w", "-0.5", "tr_t1w must be between"),
        ("tr_t2w", "5000", "tr_t2w must be between 0 and 60 s, got 5000"),  # milliseconds
        ("te_t2w", "100", "te_t2w must be between 0 and tr_t2w = 5 s, got 100"),
        ("te_t2w", "0", "te_t2w must be between"),
        ("te_pdw", "5", "te_pdw must be between"),
        ("te_pdw", "nan", "a finite number is expected"),
        ("tr_pdw", "inf", "a finite number is expected"),
        ("te_t1w", "10 ms", "a finite number is expected"),
        ("te_t1", "0.01", 'did you mean "te_t1w"'),
    ],
)
@pytest.mark.parametrize("gadget", ["pnp_admm", "combined_matching"])
def test_invalid_echo_times_are_refused(gadget, name, value, words):
    with pytest.raises(Mri2QmapError, match=words) as caught:
        read_pipeline("mri2qmap", {gadget: {name: value}})
    assert f"gadget {gadget}" in str(caught.value)
