"""The parts of bench/run, the harness that measures Selvedge beside other proxies."""
