"""Where and when groups were measured: a line for each machine and set of versions."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.machine import OF_A_TIME
from benchmarks.reading import environments_of


def environments(found: Mapping[str, Any]) -> str:
    """All environments, with the groups of each.

    Args:
        found: results by the name of their file.

    Returns:
        Markdown: a list of environments, in each of them a line for each file, with dates and loads.
    """
    lines: dict[str, list[str]] = {}
    for name, results in found.items():
        by_environment: dict[str, list[str]] = {}
        known = environments_of(results)
        for group, env in known.items():
            by_environment.setdefault(_told(env), []).append(group)
        for told, groups in by_environment.items():
            line = name if len(groups) == len(known) else f"{name}, {len(groups)} of {len(known)} groups"
            lines.setdefault(told, []).append(f"  - {line}: {_when([known[group] for group in groups])}")
            if len(groups) < len(known):
                lines[told][-1] += f": {'; '.join(groups)}"
            if results.get("note") and any(group not in results.get("environments", {}) for group in groups):
                lines[told][-1] += f"; {results['note']}"
    return "\n".join("\n".join([f"- {told}", *lines[told]]) for told in lines)


def _told(env: Mapping[str, Any]) -> str:
    """All that does not change from one group to the next."""
    usable, cpus = env.get("usable_cpus"), env["num_cpus"]
    parts = [f"jax {env['jax']} on {env['device']}"]
    parts += [env["processor"]] if env.get("processor") else []
    parts += [f"{cpus} CPUs" if usable in {None, cpus} else f"{usable} of {cpus} CPUs", env["dtype"]]
    parts += [f"{name} {version}" for name, version in env.get("versions", {}).items()]
    parts += [f"{name} `{value}`" for name, value in env.get("threads", {}).items()]
    return ", ".join(parts)


def _when(environments: Sequence[Mapping[str, Any]]) -> str:
    days = sorted({env["date"][:10] for env in environments})
    loads = sorted(env["load"] for env in environments if env.get("load") is not None)
    commits = dict.fromkeys(env["commit"] for env in environments if env.get("commit"))
    words = [" to ".join(dict.fromkeys((days[0], days[-1])))]
    if loads:
        words.append(f"load {'–'.join(dict.fromkeys((f'{loads[0]:g}', f'{loads[-1]:g}')))} at the start")
    return ", ".join(words + [f"commit {commit}" for commit in commits])


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What two files were measured with that is not the same.

    Args:
        old: results.
        new: results.

    Returns:
        A line for each thing that both know; of dates, loads and the code none.
    """
    before, after = (_values(results) for results in (old, new))
    return [
        f"{name} differs: {' / '.join(before[name])} and {' / '.join(after[name])}"
        for name in sorted(before.keys() & after.keys())
        if before[name].keys() != after[name].keys()
    ]


def _values(results: Mapping[str, Any]) -> dict[str, dict[str, None]]:
    found: dict[str, dict[str, None]] = {}
    for env in environments_of(results).values():
        kept = {**env, **env.get("versions", {})}
        for name in kept.keys() - {*OF_A_TIME, "cljax", "versions"}:
            value = kept[name]
            found.setdefault(name, {})[value if isinstance(value, str) else json.dumps(value)] = None
    return found
