"""What the console's people do with workers."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required, permission_required
from django.http import Http404, HttpRequest, HttpResponseRedirect
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from msgweb.errors import MsgwebError
from workers import orders


@require_POST
@login_required
@permission_required("workers.change_order", raise_exception=True)
def act(request: HttpRequest, session: int, action: str) -> HttpResponseRedirect:
    """Pause, resume, resize (the form's `slots`) or stop a worker."""
    by = request.user.get_username()
    try:
        match action:
            case "pause" | "resume":
                orders.give(session, by, paused=action == "pause")
            case "resize":
                orders.give(session, by, slots=int(request.POST.get("slots", "")))
            case "stop":
                orders.give(session, by, stop=True)
            case _:
                raise Http404("There is no such action.")
    except ValueError:
        messages.error(request, "Not done: the number of slots is a whole number.")
    except MsgwebError as error:
        messages.error(request, f"Not done: {error.message}.")
    else:
        done = {"pause": "pauses", "resume": "goes on", "resize": "changes its slots", "stop": "drains, and ends then"}
        messages.success(request, f"The worker {done[action]}.")
    return redirect("console:workers")
