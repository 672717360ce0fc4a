"Keep 300 mutants of a cosmic-ray session, drawn at random but always alike: `python choose_mutants.py FILE 300`"

import random
import sqlite3
import sys

with sqlite3.connect(sys.argv[1]) as session:
    jobs = [job for (job,) in session.execute("SELECT job_id FROM work_items ORDER BY job_id")]
    places = session.execute(
        "SELECT module_path, start_pos_row, start_pos_col, operator_name, occurrence, job_id FROM mutation_specs"
    )
    ordered = [row[-1] for row in sorted(places, key=str)]
    dropped = random.Random(0).sample(ordered, max(0, len(ordered) - int(sys.argv[2])))
    for table in ("mutation_specs", "work_items"):
        session.executemany(f"DELETE FROM {table} WHERE job_id = ?", [(job,) for job in dropped])
    print(f"{len(jobs)} mutants, of which {len(jobs) - len(dropped)} are tried")
