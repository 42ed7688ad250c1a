"""What a finished study shows: results, tables, pictures and analysis."""
