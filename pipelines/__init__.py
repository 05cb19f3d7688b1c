"""`lazytower prepare`: turns raw interactions into a dataset."""

from lazytower_entry import check_imports

check_imports("configs")
