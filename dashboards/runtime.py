"""The dashboard Runtime: the processes and engines that everything else stands on."""

from collections.abc import Sequence

from grafana_foundation_sdk.builders import dashboard

from dashboards.board import board
from dashboards.panels import THIRD, Leads, Limits, Panel, number, states, trend
from dashboards.queries import TOPIC

# Ours by name, brokers and model servers by what they are.
WHICH = "job, process"
NAMED = "{{job}} {{process}}"


def runtime() -> dashboard.Dashboard:
    return board(
        "Runtime",
        "Processes, Kafka, Elasticsearch and vLLM: what runs short, and what refuses?",
        {
            "Do the processes run?": _processes(),
            "How is Kafka?": _kafka(),
            "How is Elasticsearch?": _elasticsearch(),
            "How is vLLM?": _vllm(),
        },
        variables=("topic",),
    )


def _processes() -> Sequence[Panel]:
    return (
        states(
            "Which components are ready?",
            "1 while a component answers its check, 0 while it does not; `kailin status` says why.",
            ("min by (component) (kailin_component_up)", "{{component}}"),
            limits=Limits(1, 0.5),
            width=THIRD,
        ),
        states(
            "Which components have stopped for good?",
            "1 where a component has ended and is not started again: a stage met its dead-letter "
            "limit (`kailin dlq list --stage STAGE`), or a setting is wrong.",
            ("max by (component) (kailin_component_stopped)", "{{component}}"),
            limits=Limits(1, 1),
            width=THIRD,
            leads=Leads("Overview"),
        ),
        trend(
            "Which components are started again?",
            "Starts by the supervisor after a component died, in the last hour. The end of its log "
            "in <data>/logs says what it died of.",
            "short",
            (
                "sum by (component) (increase(kailin_component_restarts_total[1h]))",
                "{{component}}",
            ),
            limits=Limits(1, 5),
            width=THIRD,
            leads=Leads("Overview"),
        ),
        trend(
            "How much room is left on the disks?",
            "Free part of the file system of each directory; at 5 % Elasticsearch writes no more.",
            "percentunit",
            (
                "min by (directory) (kailin_disk_free_bytes / kailin_disk_size_bytes)",
                "{{directory}}",
            ),
            limits=Limits(0.2, 0.1),
            width=THIRD,
        ),
        trend(
            "How much memory does each process take?",
            "Resident memory. A line that rises for days is a leak.",
            "bytes",
            (f"max by ({WHICH}) (process_resident_memory_bytes)", NAMED),
            width=THIRD,
        ),
        trend(
            "How busy is each process?",
            "Processor time, in cores.",
            "short",
            (f"sum by ({WHICH}) (rate(process_cpu_seconds_total[$__rate_interval]))", NAMED),
            width=THIRD,
        ),
        trend(
            "Do files or connections leak?",
            "Open file descriptors as a part of those that a process may have.",
            "percentunit",
            (f"max by ({WHICH}) (process_open_fds / process_max_fds)", NAMED),
            limits=Limits(0.5, 0.9),
            width=THIRD,
        ),
    )


def _kafka() -> Sequence[Panel]:
    return (
        number(
            "How many partitions have no leader?",
            "They can be neither read nor written.",
            "none",
            ("max(kafka_offline_partitions)", "offline"),
            Limits(1, 1),
        ),
        number(
            "How many partitions lack a copy?",
            "Fewer copies are in step than there should be: a broker is down or slow.",
            "none",
            ("sum(kafka_under_replicated_partitions)", "under-replicated"),
            Limits(1, 10),
        ),
        number(
            "How much room have the broker's threads?",
            "Part of the time in which those of the busiest broker had nothing to do.",
            "percentunit",
            ("min(kafka_request_handler_idle_ratio)", "idle"),
            Limits(0.3, 0.1),
        ),
        number(
            "How full is the broker's heap?",
            "Of the broker that has least left; kafka.heap_mb for the embedded one.",
            "percentunit",
            (
                'max(sum by (instance) (jvm_memory_used_bytes{job=~".*kafka.*", area="heap"}) / '
                'sum by (instance) (jvm_memory_max_bytes{job=~".*kafka.*", area="heap"} > 0))',
                "heap",
            ),
            Limits(0.9, 0.98),
        ),
        trend(
            "How much is written to each topic?",
            "Messages a second.",
            "mps",
            (
                f"sum by (topic) (rate(kafka_topic_messages_in_total{TOPIC}[$__rate_interval]))",
                "{{topic}}",
            ),
            width=THIRD,
            leads=Leads("Overview", ("topic",)),
        ),
        trend(
            "How many bytes go in and out?",
            "Bytes a second written by producers and read by consumers.",
            "Bps",
            (
                f"sum by (topic) (rate(kafka_topic_bytes_in_total{TOPIC}[$__rate_interval]))",
                "{{topic}} in",
            ),
            (
                f"sum by (topic) (rate(kafka_topic_bytes_out_total{TOPIC}[$__rate_interval]))",
                "{{topic}} out",
            ),
            width=THIRD,
        ),
        trend(
            "How large are the topics?",
            "Bytes on the brokers' disks, copies included; retention and compaction bound them.",
            "bytes",
            (f"sum by (topic) (kafka_log_size_bytes{TOPIC})", "{{topic}}"),
            width=THIRD,
        ),
        trend(
            "How long do requests take in the broker?",
            "Median and 99th percentile of the newest requests of each kind; a fetch waits for "
            "messages up to half a second.",
            "s",
            (
                "max by (request, quantile) (kafka_request_seconds)",
                "{{request}} {{quantile}}",
            ),
            limits=Limits(1, 10),
        ),
        trend(
            "Which requests does the broker refuse?",
            "Answers with an error, a second. AUTHORIZATION_FAILED is a missing ACL; NOT_LEADER "
            "and UNKNOWN_TOPIC_OR_PARTITION pass after a start.",
            "reqps",
            (
                "sum by (request, error) (rate(kafka_request_errors_total[$__rate_interval]))",
                "{{request}}: {{error}}",
            ),
            limits=Limits(1, 10),
        ),
    )


def _elasticsearch() -> Sequence[Panel]:
    return (
        states(
            "In which state is the cluster?",
            "1 for green, yellow (a copy is missing, as on a single node), red (a part of the "
            "index is missing), or away.",
            ("max by (state) (kailin_elasticsearch_state)", "{{state}}"),
            width=THIRD,
        ),
        trend(
            "How many records are in the index?",
            "Records that can be searched, deleted ones left out.",
            "short",
            ("max(kailin_elasticsearch_documents)", "records"),
            width=THIRD,
            leads=Leads("Overview"),
        ),
        trend(
            "How large is the index?",
            "Bytes on disk, copies included.",
            "bytes",
            ("max(kailin_elasticsearch_store_bytes)", "index"),
            width=THIRD,
        ),
        trend(
            "How many searches and writes are there?",
            "A second, by shards.",
            "ops",
            ("max(rate(kailin_elasticsearch_searches_total[$__rate_interval]))", "searches"),
            ("max(rate(kailin_elasticsearch_writes_total[$__rate_interval]))", "writes"),
            width=THIRD,
        ),
        trend(
            "How long do they take?",
            "Mean time of one in a shard, over five minutes.",
            "s",
            (
                "max(increase(kailin_elasticsearch_search_seconds_total[5m]) / "
                "increase(kailin_elasticsearch_searches_total[5m]))",
                "search",
            ),
            (
                "max(increase(kailin_elasticsearch_write_seconds_total[5m]) / "
                "increase(kailin_elasticsearch_writes_total[5m]))",
                "write",
            ),
            limits=Limits(0.1, 1),
            width=THIRD,
        ),
        trend(
            "How full is the heap of each node?",
            "Part of a node's heap in use; elasticsearch.heap_mb for the embedded one.",
            "percentunit",
            ("max by (node) (kailin_elasticsearch_heap_ratio)", "{{node}}"),
            limits=Limits(0.85, 0.95),
            width=THIRD,
        ),
        trend(
            "How busy is each node?",
            "Part of its machine's processors.",
            "percentunit",
            ("max by (node) (kailin_elasticsearch_cpu_ratio)", "{{node}}"),
            limits=Limits(0.8, 0.95),
            width=THIRD,
        ),
        trend(
            "Does it refuse work?",
            "Requests that wait for a thread, and those refused in the last hour because too many "
            "did. Refused ones are tried again by the stages.",
            "short",
            ("max by (pool) (kailin_elasticsearch_queue)", "{{pool}} waiting"),
            (
                "max by (pool) (increase(kailin_elasticsearch_rejected_total[1h]))",
                "{{pool}} refused",
            ),
            limits=Limits(100, 1000),
            width=THIRD,
        ),
    )


def _vllm() -> Sequence[Panel]:
    rate = "sum by (server) (rate({}[$__rate_interval]))"

    def slowest(metric: str) -> str:
        rates = f"sum by (le, server) (rate({metric}_bucket[$__rate_interval]))"
        return f"histogram_quantile(0.95, {rates})"

    return (
        trend(
            "How many sequences are decoded together, and how many wait?",
            "The batch of each server, and its queue. Sequences that wait while few are decoded "
            "mean that the cache below is full.",
            "short",
            ("sum by (server) (vllm:num_requests_running)", "{{server}} running"),
            ("sum by (server) (vllm:num_requests_waiting)", "{{server}} waiting"),
            width=THIRD,
            leads=Leads("Models"),
        ),
        trend(
            "How full is the cache of keys and values?",
            "Part of the memory for sequences that is in use; at 1 sequences are put back.",
            "percentunit",
            ("max by (server) (vllm:kv_cache_usage_perc)", "{{server}}"),
            limits=Limits(0.9, 0.99),
            width=THIRD,
        ),
        trend(
            "How many sequences are put back?",
            "Sequences a second that lost their place in the cache and are computed again.",
            "ops",
            (rate.format("vllm:num_preemptions_total"), "{{server}}"),
            limits=Limits(0.1, 1),
            width=THIRD,
        ),
        trend(
            "How many tokens does each server read and write?",
            "Tokens a second, of all who ask it.",
            "suffix: tokens/s",
            (rate.format("vllm:prompt_tokens_total"), "{{server}} read"),
            (rate.format("vllm:generation_tokens_total"), "{{server}} written"),
            width=THIRD,
        ),
        trend(
            "Where does the time of a request go?",
            "95th percentile of the wait in the queue, the time to the first token, and the whole "
            "request.",
            "s",
            (slowest("vllm:request_queue_time_seconds"), "{{server}} queue"),
            (slowest("vllm:time_to_first_token_seconds"), "{{server}} first token"),
            (slowest("vllm:e2e_request_latency_seconds"), "{{server}} whole"),
            limits=Limits(60, 300),
            width=THIRD,
            leads=Leads("Models"),
        ),
        trend(
            "How do requests end?",
            "Requests a second by why they ended: stop, at the length allowed, or aborted.",
            "reqps",
            (
                "sum by (server, finished_reason) "
                "(rate(vllm:request_success_total[$__rate_interval]))",
                "{{server}} {{finished_reason}}",
            ),
            width=THIRD,
        ),
    )
