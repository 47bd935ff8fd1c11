"""`manage.py seed_samples`: the two sample applications, and one clone to look at. Does nothing the second time."""

import uuid
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand

from apps.firebrand.models import Brand
from apps.jobs.models import Job
from apps.jobs.submit import submit

NAMESPACE = "firebrand.development"
PRODUCTS = 2_000
#: Always the same: to ask twice with one id is to ask once.
SAMPLE_JOB = uuid.UUID("6d736777-6562-4000-8000-73616d706c65")


class Command(BaseCommand):
    help = "Fills the sample applications (a brand, a shop) and submits one clone of the brand, once."

    def handle(self, *args: Any, **options: Any) -> None:
        first = not Brand.objects.exists()
        call_command("seed_firebrand", "--products", str(PRODUCTS), "--if-empty", stdout=self.stdout)
        call_command("seed_taoshop", "--if-empty", stdout=self.stdout)
        if first and not Job.objects.filter(id=SAMPLE_JOB).exists():
            brand = Brand.objects.earliest("id")
            job = submit(
                NAMESPACE,
                "firebrand.clone_brand",
                {"brand": brand.slug, "name": "Harbour & Pine", "domain": "harbour-pine.example"},
                job_id=SAMPLE_JOB,
                requested_by="the first start",
            )
            self.stdout.write(f"submitted job {job.id}: a clone of {brand.name}")
