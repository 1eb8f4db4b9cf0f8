"""Values, ports, errors, clock, calendar, files, journal. Imports none of our other packages."""
