"""TRL's trainer of the jobs that imitate texts."""

from trl import SFTConfig, SFTTrainer

from trainers.config import Job
from trainers.training import Parts


def sft_trainer(config: Job, parts: Parts) -> SFTTrainer:
    """Loss on the completion where there is a prompt, on the whole text where there is none.

    Packed texts do not see each other. A text that is longer than a pack is split, so nothing is
    cut; what has a prompt fits, since what does not was left out.
    """
    arguments = SFTConfig(
        packing=config.optimisation.packing,
        packing_strategy="bfd_split" if "text" in parts.train.column_names else "bfd",
        eval_packing=False,
        **parts.arguments,
    )
    return SFTTrainer(args=arguments, **parts.common())
