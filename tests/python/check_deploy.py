"""Every file of deploy/ by the parser of whoever reads it, and every metric that is asked for against a real scrape.

check_deploy.py DEPLOY_FOLDER SCRAPE
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import promql_parser
import yaml
from prometheus_client.parser import text_string_to_metric_families

import lint_metrics

deploy, scrape = Path(sys.argv[1]), Path(sys.argv[2])
tools = Path(sys.executable).parent
faults = []


def check(ok, what):
    if not ok:
        faults.append(what)


def tool(name, *arguments):
    ran = subprocess.run([tools / name, *map(str, arguments)], capture_output=True, text=True, timeout=100)
    check(ran.returncode == 0, f"{name} {arguments}: {ran.stdout}{ran.stderr}")
    return ran.stdout + ran.stderr


# The scrape, by the parser of Prometheus' own client.
families = {family.name: family for family in text_string_to_metric_families(scrape.read_text())}
samples = {sample.name for family in families.values() for sample in family.samples}
types = {name: family.type for name, family in families.items()}
for name, family in families.items():
    check(family.documentation and family.type in ("counter", "gauge", "histogram", "summary"), f"{name}: {family}")
    if family.type != "histogram":
        continue
    groups = {}
    for sample in family.samples:
        labels = {key: value for key, value in sample.labels.items() if key != "le"}
        group = groups.setdefault(json.dumps(labels, sort_keys=True), {"buckets": []})
        if sample.name.endswith("_bucket"):
            group["buckets"].append((float(sample.labels["le"]), sample.value))
        else:
            group[sample.name.rsplit("_", 1)[1]] = sample.value
    for labels, group in groups.items():
        bounds, counts = zip(*group["buckets"])
        check(list(bounds) == sorted(bounds) and bounds[-1] == float("inf"), f"{name} {labels}: bounds {bounds}")
        check(list(counts) == sorted(counts), f"{name} {labels}: buckets that fall: {counts}")
        check(counts[-1] == group["count"] and group["sum"] >= 0, f"{name} {labels}: {group}")
for share in ("0.5", "0.95", "0.99"):
    quantiles = families["marey_commit_recent_seconds"].samples
    found = any(s.labels.get("quantile") == share and 0 < s.value < 60 for s in quantiles)
    check(found, f"no quantile {share} of commits")

# The same by the rules of `promtool check metrics`; with that program too where there is one.
for fault in lint_metrics.lint(scrape.read_text()):
    check(False, f"{scrape.name}: {fault}")
for fault in lint_metrics.missed():
    check(False, f"the check of metrics misses: {fault}")
if shutil.which("promtool"):
    ran = subprocess.run(["promtool", "check", "metrics"], input=scrape.read_text(), capture_output=True, text=True)
    check(ran.returncode == 0, f"promtool: {ran.stdout}{ran.stderr}")

# What an operator of a hub asks for by name.
for name, label, values in (
    ("marey_store_bytes", "part", {"journal", "logs", "parquet", "media", "uploads", "audit", "other"}),
    ("marey_jobs_open", "kind", {"seal", "compact", "realign", "upload"}),
    ("marey_machine_cpu_seconds_total", "mode", {"user", "system", "idle", "iowait"}),
):
    told = {s.labels[label] for family in families.values() for s in family.samples if s.name == name}
    check(values <= told, f"{name} has {told}")
one = {s.name: s.value for family in families.values() for s in family.samples if not s.labels}
day = 86400
now = one["process_start_time_seconds"]
check(5 * 365 * day < one["marey_authority_not_after_seconds"] - now < 40 * 365 * day, "when the authority ends")
check(0 < one["marey_revocations_not_after_seconds"] - now < 100 * day, "until when revocations count")
check(300 * day < one["marey_device_certificate_not_after_seconds"] - now < 400 * day, "when the device's ends")
check(one["marey_machine_memory_bytes"] > one["marey_machine_memory_available_bytes"] > 0, "memory of the machine")
check("marey_upload_bytes_total" in samples, "bytes of uploads")

# Rules and alerts: PromQL, and no metric that a hub does not have.
recorded = set()
groups = []
for name in ("rules.yml", "alerts.yml"):
    groups += yaml.safe_load((deploy / "prometheus" / name).read_text())["groups"]
rules = [rule for group in groups for rule in group["rules"]]
recorded = {rule["record"] for rule in rules if "record" in rule}
alerts = [rule["alert"] for rule in rules if "alert" in rule]
check(len(alerts) == len(set(alerts)) >= 15, f"alerts: {alerts}")
for rule in rules:
    if "alert" in rule:
        check(rule["labels"]["severity"] in ("page", "look") and rule["annotations"]["summary"], f"{rule}")

NOT_METRICS = {"absent", "or", "sum", "by", "rate", "increase", "changes", "histogram_quantile", "time", "without"}


def expression(text, where):
    try:
        promql_parser.parse(text)
    except Exception as error:  # the parser raises its own kind
        check(False, f"{where}: {text}: {error}")
    bare = re.sub(r"by \([^)]*\)|\{[^}]*\}|\[[^]]*\]|\"[^\"]*\"", " ", text)
    for word in re.findall(r"[A-Za-z_:][A-Za-z0-9_:]*", bare):
        known = word in samples or word in recorded or word in NOT_METRICS or word == "up"
        check(known, f"{where}: no hub has the metric {word}")


for rule in rules:
    expression(rule["expr"], rule.get("alert") or rule["record"])
check("marey_nothing" not in samples, "the check of names checks nothing")

# The dashboard.
dashboard = json.loads((deploy / "grafana" / "dashboard.json").read_text())
ids = [panel["id"] for panel in dashboard["panels"]]
check(len(ids) == len(set(ids)) > 10, f"panels: {ids}")
for panel in dashboard["panels"]:
    place = panel["gridPos"]
    check(place["x"] + place["w"] <= 24, f"{panel['title']}: beyond the right edge")
    for target in panel["targets"]:
        expression(target["expr"].replace("$instance", ".*"), panel["title"])

# The operations book has a procedure for every alert.
book = (deploy.parent / "docs" / "operations.md").read_text()
for alert in alerts:
    check(alert in book, f"docs/operations.md does not speak of {alert}")

# Containers.
compose = yaml.safe_load((deploy / "docker" / "compose.yml").read_text())
tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", deploy / "docker" / "compose.yml")
tool("hadolint", deploy / "docker" / "Dockerfile")
hub = compose["services"]["hub"]
check("8765:8765/udp" in hub["ports"] and hub["read_only"] and hub["cap_drop"] == ["ALL"], f"{hub}")
check(not any("8080" in port for port in hub["ports"]), "metrics are published to the network")
said = tool("kubernetes-validate", "--strict", deploy / "kubernetes" / "marey.yaml")
check(said.count("passed") == 4, said)
objects = list(yaml.safe_load_all((deploy / "kubernetes" / "marey.yaml").read_text()))
[hub] = [o for o in objects if o["kind"] == "StatefulSet"]
check(hub["spec"]["replicas"] == 1, "more than one writer of one volume")
ports = {p["name"]: p["protocol"] for p in hub["spec"]["template"]["spec"]["containers"][0]["ports"]}
check(ports == {"devices": "TCP", "time": "UDP", "files": "TCP", "health": "TCP"}, f"{ports}")
for name in ("prometheus/prometheus.yml", "grafana/provisioning/datasources/prometheus.yml"):
    yaml.safe_load((deploy / name).read_text())

for fault in faults:
    print(fault)
print(f"{len(families)} families, {len(samples)} kinds of samples, {len(rules)} rules, {len(ids)} panels")
sys.exit(1 if faults else 0)
