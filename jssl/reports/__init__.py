"""Pages and tables about runs that are stored in workdirs."""
