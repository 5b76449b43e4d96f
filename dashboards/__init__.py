"""Grafana dashboards and Prometheus rules. JSON here is generated; the code is the source."""
