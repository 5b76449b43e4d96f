"""An answer model on I2, or on PubMedQA's PQA-A, with the prompt of KAILIN's Figure 3.

    python -m trainers.sft_answers --config sft-answers.toml

Question and context in, yes, no or maybe out; the loss is on the answer only. With
`lora = false` all parameters are trained.
"""

import sys

from trainers.command import command
from trainers.config import SftAnswers
from trainers.result import Result


def train(config: SftAnswers) -> Result:
    """Run the job. Raises `DataError` and `JobError`."""
    # Here, because a wrong configuration is told before torch is loaded.
    from trainers import prepared, sft, training

    return training.train(
        config,
        "sft-answers",
        lambda: prepared.sft_answers(config),
        lambda parts: sft.sft_trainer(config, parts),
        packs=config.optimisation.packing,
    )


def main() -> int:
    return command(SftAnswers, train, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
