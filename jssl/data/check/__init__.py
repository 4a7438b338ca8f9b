"""`jssl data check`: looks at a data set before a run, and says what a user should know."""
