"""What every section of the settings is made of."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from streams.prompts import QUESTION_PROMPTS

Port = Annotated[int, Field(ge=1, le=65535)]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    # Each section is built when it is first used: at import that costs a third of a second, which
    # every process of ours would pay.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Secret(Section):
    """Mixed into sections that hold secrets: reads `NAME_file` where `NAME` is not given."""

    @model_validator(mode="before")
    @classmethod
    def _read_files(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for name in [key for key in values if key.endswith("_file") and values[key]]:
            secret = name.removesuffix("_file")
            if secret in cls.model_fields and not values.get(secret):
                try:
                    text = Path(values[name]).read_text().strip()
                except OSError as error:
                    raise ValueError(
                        f"cannot read {name} {values[name]}: {error.strerror}"
                    ) from None
                except (TypeError, UnicodeDecodeError):
                    raise ValueError(f"{name} must be the path of a text file") from None
                values = {**values, secret: text}
        return values


class Sampling(Section):
    """How a question generator is prompted and sampled."""

    prompt: str = "question/1"
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    max_tokens: Positive = 64
    attempts: Positive = 4

    @field_validator("prompt")
    @classmethod
    def _known(cls, prompt: str) -> str:
        if prompt not in QUESTION_PROMPTS:
            raise ValueError(f"expected one of {', '.join(QUESTION_PROMPTS)}")
        return prompt
