"""How a population lives in a study: owners, claims, the log, and Optuna's interface to them."""
