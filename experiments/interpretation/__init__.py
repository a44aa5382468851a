"""Can features be said in words, and by whom?"""
