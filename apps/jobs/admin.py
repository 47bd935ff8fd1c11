"""Jobs in Django's admin: to look at. What may be done with a job is done by `apps.jobs.control`."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from apps.jobs.models import Attempt, Job


class ReadOnly:
    """No permission but to view."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class AttemptInline(ReadOnly, admin.TabularInline):
    model = Attempt
    fields = ["number", "host", "pid", "started_at", "ended_at", "outcome", "error"]
    extra = 0


@admin.register(Job)
class JobAdmin(ReadOnly, admin.ModelAdmin):
    list_display = ["id", "namespace", "task", "state", "attempt", "created_at", "finished_at"]
    list_filter = ["state"]
    search_fields = ["id__exact"]
    show_full_result_count = False
    ordering = ["-id"]  # which is by time, too, where the asker gave none of his own
    inlines = [AttemptInline]
