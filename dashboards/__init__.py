"""Grafana dashboards and Prometheus rules. JSON here is generated; the code is the source.

`python -m dashboards` writes each dashboard to a file of its name, ready to be imported or
provisioned (infra/grafana).
"""
