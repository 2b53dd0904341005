"""Model servers: one adapter for each protocol, behind one small interface (`endpoints.base`)."""
