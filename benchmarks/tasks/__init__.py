"""What estimators are compared at: one file for each task."""

from benchmarks.tasks.base import Group, Task
from benchmarks.tasks.registry import TASKS

__all__ = ["TASKS", "Group", "Task"]
