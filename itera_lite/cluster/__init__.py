"""Filtering on clusters, with the engines that run there: datatrove and Ray Data."""
