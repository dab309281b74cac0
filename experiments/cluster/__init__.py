"""What several machines do, on one: network namespaces that fail, and a cluster's rate on paper."""
