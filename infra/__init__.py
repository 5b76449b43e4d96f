"""The edge: settings, processes, Kafka, Elasticsearch, vLLM, files and the command line."""
