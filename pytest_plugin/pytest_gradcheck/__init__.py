"""``pytest --gradcheck``: every test runs inside ``gradcheck_suite.watch(verify=True)``.

``plugin`` is what pytest loads. It, ``options`` and ``hookspecs`` import the standard library and pytest alone, so that a
run without ``--gradcheck`` pays nothing; all else here is imported when the flag is given or the ``gradcheck`` fixture is
used, and what is heavy (the evidence, the report) only once a test uses torch:

* ``marker``: ``@pytest.mark.gradcheck(...)``
* ``session``: runs the phases of each test watched (``phase``, ``arrival``, ``calls``) and lets it answer for what was found
* ``judgement``: what a finding means for its test: new, known from the ``baseline``, expected
* ``models``: models as tests of their own
* ``failure``: findings in pytest's failure output; ``properties``: in JUnit XML
* ``transport``: what travels with a test's report, also between processes
* ``collector``: takes it in, once per run; ``aggregate`` sums it up, ``summary`` prints it
* ``internal``: errors of our own, which never break a test
* ``fixture``: the ``gradcheck`` fixture
"""
