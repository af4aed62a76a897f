-- Limits that the operator set on a deployment or a key are the operator's to change. Who set those that are there is not
-- known: they count as the operator's.
ALTER TABLE deployment ADD COLUMN limits_by_operator INTEGER NOT NULL DEFAULT 0;
ALTER TABLE key ADD COLUMN limits_by_operator INTEGER NOT NULL DEFAULT 0;
UPDATE deployment SET limits_by_operator = 1 WHERE limits IS NOT NULL;
UPDATE key SET limits_by_operator = 1 WHERE limits IS NOT NULL;
