-- tokenbudget_usage_note enters what a writer adds, while the table is not partitioned yet; tokenbudget_usage_claim enters a
-- row before it is added, and lets go of it where its event is known; tokenbudget_usage_forget takes out what is deleted.
CREATE OR REPLACE FUNCTION tokenbudget_usage_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO tokenbudget_usage_events (id, instance_id, sequence)
    SELECT id, instance_id, sequence FROM added ORDER BY instance_id, sequence
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION tokenbudget_usage_claim() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO tokenbudget_usage_events (id, instance_id, sequence)
    VALUES (NEW.id, NEW.instance_id, NEW.sequence)
    ON CONFLICT DO NOTHING;
    IF FOUND THEN
        RETURN NEW;
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION tokenbudget_usage_forget() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM tokenbudget_usage_events AS event USING gone WHERE event.id = gone.id;
    RETURN NULL;
END $$;
