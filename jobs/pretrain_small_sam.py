r"""Pretrain the small SAM on procedural scenes, measure its gates and write its weights.

Three stages, over an hour on two quiet cores. The run resumes: give the same command again after an
interruption. Progress, with the minutes left of a stage, is printed every 25 steps.

    python jobs/pretrain_small_sam.py                    # train, measure, ship
    python jobs/pretrain_small_sam.py --gates            # measure the shipped weights again
    python jobs/pretrain_small_sam.py --stage 3          # the last stage again
    python jobs/pretrain_small_sam.py --steps 20 --scenes 200 --folder runs/try \
        --output runs/try/small_sam.safetensors  # a short try
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ssprompt_core.errors import UserError
from ssprompt_core.models.shipped import DEFAULT_WEIGHTS
from ssprompt_core.pretrain.config import STAGES, PretrainConfig

if TYPE_CHECKING:
    from ssprompt_core.pretrain.gates import Gate


def main() -> int:
    """Run the job; returns its exit code: 0 all gates passed, 1 one missed, 2 a user's mistake."""
    arguments = _parse()
    # here, since --help and mistakes in the words need none of it
    import torch

    from ssprompt_core.models.small_sam import build_small_sam, load_weights
    from ssprompt_core.pretrain.export import export
    from ssprompt_core.pretrain.gates import measure_gates
    from ssprompt_core.pretrain.loop import pretrain_stages

    torch.set_num_threads(1)
    try:
        if arguments.gates:
            return _show(measure_gates(build_small_sam(arguments.output)))
        stages = [_shortened(stage, arguments) for stage in STAGES]
        start = load_weights(arguments.output) if arguments.stage > 1 else None
        state = pretrain_stages(stages, arguments.folder, first=arguments.stage, start=start)
        tensors = state.averaged_weights()
        state.sam.load_state_dict(
            {n.removeprefix("sam."): t for n, t in tensors.items() if n.startswith("sam.")}
        )
        print("measuring the gates ...")
        gates = measure_gates(state.sam)
        export(tensors, stages, gates, arguments.output, first=arguments.stage)
        print(f"wrote {arguments.output}, its card {arguments.output.stem}.json and MODEL_CARD.md")
        return _show(gates)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command resumes from the last checkpoint", file=sys.stderr)
        return 130


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gates", action="store_true", help="measure --output, train nothing")
    parser.add_argument("--folder", type=Path, default=Path("runs/pretrain"), help="checkpoints")
    parser.add_argument("--output", type=Path, default=DEFAULT_WEIGHTS, help="weights file")
    parser.add_argument(
        "--stage",
        type=int,
        default=1,
        choices=range(1, len(STAGES) + 1),
        help="stage to begin with; from the second on it starts from the weights in --output",
    )
    parser.add_argument("--steps", type=int, help="at most this many steps a stage, for a try")
    parser.add_argument("--scenes", type=int, help="this many scenes a stage, for a try")
    return parser.parse_args()


def _shortened(stage: PretrainConfig, arguments: argparse.Namespace) -> PretrainConfig:
    if arguments.steps:
        stage = replace(stage, stop=min(arguments.steps, stage.stop or stage.steps))
    return replace(stage, scenes=arguments.scenes or stage.scenes)


def _show(gates: list[Gate]) -> int:
    for gate in gates:
        mark = "passed" if gate.passed else "MISSED"
        print(f"{gate.name:34} {gate.value:.3f}  at least {gate.minimum:.2f}  {mark}")
    return 0 if all(gate.passed for gate in gates) else 1


if __name__ == "__main__":
    sys.exit(main())
