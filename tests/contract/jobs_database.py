"""What the suites of jobs, queue and lease share: new jobs, steps, and both databases."""

from trainer_service.core.events import StepDone
from trainer_service.core.job_record import Job, NewJob
from trainer_service.core.jobs import Jobs
from trainer_service.core.recipe import Fleet, RecipeRequest, resolve

RECIPE = resolve(RecipeRequest(), rows=100, fleet=Fleet())[0]
DATABASES = ("sqlite", "postgres")


def new(tenant: str = "acme", key: str = "", request: str = "r", priority: int = 0) -> NewJob:
    return NewJob(tenant, "ds-1", "tickets", "prod", RECIPE, 100, False, key, request, priority)


def step(number: int, total: int = 18) -> StepDone:
    return StepDone(
        step=number,
        total_steps=total,
        loss=1.0,
        learning_rate=1e-3,
        gradient_norm=1.0,
        tokens_per_second=1.0,
        epoch=0.1,
    )


def numbers(jobs: Jobs, job: Job) -> list[int]:
    return [event.number for event in jobs.events(job, 0, 10_000)]
