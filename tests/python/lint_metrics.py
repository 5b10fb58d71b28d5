"""The rules that `promtool check metrics` holds a page of metrics to, for machines without promtool.

lint(text) gives one sentence for each fault; missed() the faults of a page that has all of them which lint() did not see.
"""

import re

# Of the units that a name may hold, those that are no base units, and the base unit to use.
UNITS = {
    **dict.fromkeys(("minutes", "hours", "days", "weeks"), "seconds"),
    **dict.fromkeys(("fahrenheit", "rankine", "kelvins"), "celsius"),
    **dict.fromkeys(("inches", "yards", "miles"), "meters"),
    **dict.fromkeys(("pounds", "ounces"), "grams"),
    "bits": "bytes",
    "calories": "joules",
}
BASES = {"amperes", "bytes", "celsius", "grams", "joules", "kelvin", "meters", "metres", "moles", "seconds", "volts"}
PREFIXES = ("pico nano micro milli centi deci deca hecto kilo kibi mega mebi mibi giga gibi tera tebi peta pebi").split()
SHORT = set("s ms us ns sec b kb mb gb tb pb m h d".split())
TYPES = {"counter", "gauge", "histogram", "summary"}
PARTS = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}
LINE = re.compile(r"^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="(?:[^"\\]|\\.)*"')


def unit_fault(name):
    for word in name.split("_"):
        base = UNITS.get(word)
        if base is None:
            bases = (known for known in BASES | set(UNITS) for prefix in PREFIXES if word == prefix + known)
            base = next(bases, None)
            base = UNITS.get(base, base)
        if base:
            return f"{name}: use base unit {base} instead of {word}"
        if word in SHORT and word != name.split("_")[0]:
            return f"{name}: write the unit out instead of {word}"
    return None


def family_of(sample, types):
    """The family that a sample belongs to: sums, counts and buckets belong to the one without their end."""
    for kind, ends in PARTS.items():
        for end in ends:
            if sample.endswith(end) and types.get(sample.removesuffix(end)) == kind:
                return sample.removesuffix(end)
    return sample


def lint(text):
    helps, types, seen, faults, closed, last = {}, {}, set(), [], set(), None
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("# "):
            _, what, name, said = (line.split(" ", 3) + [""])[:4]
            of = {"HELP": helps, "TYPE": types}.get(what)
            if of is not None:
                if name in of:
                    faults.append(f"line {number}: a second {what} of {name}")
                of[name] = said
            continue
        if not line:
            continue
        found = LINE.match(line)
        if not found:
            faults.append(f"line {number} is no sample: {line}")
            continue
        sample, labels, value = found.groups()
        name = family_of(sample, types)
        names = LABEL.findall(labels or "")
        kind = types.get(name)
        if LABEL.sub("", labels or "").strip(",") or len(names) != len(set(names)):
            faults.append(f"line {number}: labels that nobody can read: {line}")
        try:
            float(value)
        except ValueError:
            faults.append(f"line {number}: no number: {line}")
        if (sample, labels) in seen:
            faults.append(f"{sample}: twice the same labels: {labels}")
        seen.add((sample, labels))
        if name != last:
            if name in closed:
                faults.append(f"{name}: its lines do not stand together")
            closed.add(name)
            last = name
        if "quantile" in names and kind != "summary":
            faults.append(f'{name}: non-summary metrics should not have "quantile" label')
        if "le" in names and kind != "histogram":
            faults.append(f'{name}: non-histogram metrics should not have "le" label')
        if any(re.search("[a-z][A-Z]", label) for label in names):
            faults.append(f"{name}: labels are written in snake_case")
    for name in sorted({family_of(sample, types) for sample, _ in seen} | set(types)):
        kind = types.get(name)
        if not helps.get(name):
            faults.append(f"{name}: no help text")
        if kind not in TYPES:
            faults.append(f"{name}: no type")
        if (kind == "counter") != name.endswith("_total"):
            faults.append(f'{name}: counters, and nothing else, end in "_total"')
        for end in ("_bucket", "_sum", "_count"):
            if name.endswith(end):
                faults.append(f'{name}: only parts of histograms and summaries end in "{end}"')
        words = set(name.split("_"))
        if words & (TYPES | {"untyped"}):
            faults.append(f"{name}: its type does not belong into its name")
        if ":" in name or re.search("[a-z][A-Z]", name):
            faults.append(f"{name}: names are in snake_case, and colons are for recording rules")
        if fault := unit_fault(name):
            faults.append(fault)
    return faults


WRONG = {
    "# HELP a A.\n# TYPE a gauge\na{quantile=\"0.5\"} 1\n": '"quantile" label',
    "# HELP a A.\n# TYPE a gauge\na{le=\"0.5\"} 1\n": '"le" label',
    "# HELP a_megabytes A.\n# TYPE a_megabytes gauge\na_megabytes 1\n": "use base unit bytes",
    "# HELP a_milliseconds A.\n# TYPE a_milliseconds gauge\na_milliseconds 1\n": "use base unit seconds",
    "# HELP a_hours A.\n# TYPE a_hours gauge\na_hours 1\n": "use base unit seconds",
    "# HELP a_ms A.\n# TYPE a_ms gauge\na_ms 1\n": "write the unit out",
    "# TYPE a gauge\na 1\n": "no help text",
    "# HELP a A.\na 1\n": "no type",
    "# HELP a A.\n# TYPE a counter\na 1\n": '"_total"',
    "# HELP a_total A.\n# TYPE a_total gauge\na_total 1\n": '"_total"',
    "# HELP a_count A.\n# TYPE a_count gauge\na_count 1\n": '"_count"',
    "# HELP a_gauge A.\n# TYPE a_gauge gauge\na_gauge 1\n": "its type",
    "# HELP aB A.\n# TYPE aB gauge\naB 1\n": "snake_case",
    "# HELP a A.\n# TYPE a gauge\na 1\na 2\n": "twice the same labels",
    "# HELP a A.\n# TYPE a gauge\na{b=\"1\"} 1\n# HELP c C.\n# TYPE c gauge\nc 1\na{b=\"2\"} 2\n": "stand together",
    "# HELP a A.\n# TYPE a gauge\na one\n": "no number",
}
RIGHT = """# HELP a_seconds A.
# TYPE a_seconds histogram
a_seconds_bucket{le="1"} 1
a_seconds_bucket{le="+Inf"} 1
a_seconds_sum 0.5
a_seconds_count 1
# HELP b_recent_seconds B.
# TYPE b_recent_seconds summary
b_recent_seconds{type="x",quantile="0.5"} 0.5
b_recent_seconds_sum{type="x"} 0.5
b_recent_seconds_count{type="x"} 1
# HELP c_bytes_total C.
# TYPE c_bytes_total counter
c_bytes_total 3
"""


def missed():
    not_seen = [text for text, what in WRONG.items() if not any(what in fault for fault in lint(text))]
    return not_seen + lint(RIGHT)
