"""The variables of the environment by which MLflow's client is set up."""

from infra.settings import Settings

# MLflow would ask a server that is away for four minutes, and report to its makers.
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

# Its client reads them from the environment of this process, which no model server is to inherit.
CREDENTIALS = (
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
)


def environment(settings: Settings) -> dict[str, str]:
    """The variables by which MLflow's client gets its credentials; they hold secrets."""
    mlflow = settings.mlflow
    given = (
        mlflow.token.get_secret_value(),
        mlflow.username,
        mlflow.password.get_secret_value(),
    )
    named = zip(CREDENTIALS, given, strict=True)
    return {**PATIENCE, **{name: value for name, value in named if value}}
