"""What `notewright reliability` and `notewright validity` measure: candidate texts of documents, and their students."""
