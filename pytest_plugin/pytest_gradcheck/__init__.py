"""``pytest --gradcheck``: every test runs inside ``gradcheck_suite.watch(verify=True)``.

``plugin`` is what pytest loads. It and ``options`` import the standard library and pytest alone, so that a run without
``--gradcheck`` pays nothing; all else here is imported when the flag is given or the ``gradcheck`` fixture is used:

* ``marker``: ``@pytest.mark.gradcheck(...)``
* ``session``: runs the phases of each test watched (``phase``, ``arrival``) and judges what was found
* ``failure``: findings in pytest's failure output
* ``transport``: what travels with a test's report, also between processes
* ``collector``: takes it in, once per run; ``aggregate`` sums it up, ``summary`` prints it
* ``internal``: errors of our own, which never break a test
* ``fixture``: the ``gradcheck`` fixture
"""
