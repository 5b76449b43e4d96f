"""What every section of the settings is made of."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Port = Annotated[int, Field(ge=1, le=65535)]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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
