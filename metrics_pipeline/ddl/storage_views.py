"""Views of what is stored: the same questions, answered by one server or by all shards of a cluster.

stored_parts     active parts of our tables
disks            those that they are on
"""

from metrics_pipeline.ddl.objects import View


def parts_view(database: str) -> View:
    """`database` is an expression."""
    return View(
        "stored_parts",
        f"""SELECT table, partition_id, disk_name, rows, bytes_on_disk FROM system.parts
WHERE active AND database = {database}""",
        "Active parts of the tables; of a cluster, those of one replica of each shard.",
    )


def disks_view(database: str, name: str = "name") -> View:
    """`name` is an expression, too: disks of several servers have the same names."""
    return View(
        "disks",
        f"""SELECT {name} AS disk, unreserved_space, total_space FROM system.disks
WHERE total_space > 0 AND (name = 'default' OR name IN (
    SELECT disk_name FROM system.parts WHERE active AND database = {database}))""",
        "Disks that the tables are on, and the default one; bytes.",
    )


OWN = "currentDatabase()"
PARTS = parts_view(OWN)
DISKS = disks_view(OWN)
