"""Alembic's entry: runs the migrations over the connection that `portal.database` hands over."""

from alembic import context

from portal.database import Base
from portal.jobs import models as _jobs
from portal.people import persons as _persons
from portal.people import sessions as _sessions
from portal.people import sign_in as _sign_in
from portal.schedulers import local_tables as _local

# Importing the modules is what puts their tables into the registry.
TABLES_OF = (_jobs, _persons, _sessions, _sign_in, _local)

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
context.run_migrations()
