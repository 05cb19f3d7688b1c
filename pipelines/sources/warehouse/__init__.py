"""Tables and results of queries in BigQuery: clients, errors, what is read, and its rows."""
