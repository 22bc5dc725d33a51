import pytest
from typer.testing import CliRunner

from cluster.cli.app import app
from helpers.fixture_models import FIXTURES, checkpoint
from shards.kernels.formats import WeightFormat
from shards.quantisation_error import layer_errors


@pytest.mark.parametrize(
    ("held", "least", "most"),
    [
        (WeightFormat.BF16, 0.0, 0.0),
        (WeightFormat.INT8, 0.002, 0.02),
        (WeightFormat.INT4, 0.05, 0.2),
    ],
)
def test_errors_of_every_layer_are_of_the_size_of_the_format(held, least, most):
    rows = list(layer_errors(checkpoint(), held))
    assert [row.layer for row in rows] == list(range(checkpoint().config.num_layers))
    for row in rows:
        assert least <= row.error <= row.worst_error <= most
        assert 0 <= row.worst_expert < checkpoint().config.num_experts


def test_inspect_prints_them():
    shown = CliRunner().invoke(
        app, ["inspect", str(FIXTURES / "tiny-hf-bf16"), "--experts", "int4"]
    )
    assert shown.exit_code == 0, shown.output
    assert "relative error of routed experts held in int4" in shown.output
    assert "worst expert" in shown.output
